"""The paper's claims as experiments on the generated videos: `make findings`."""
