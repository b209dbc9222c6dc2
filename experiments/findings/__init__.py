"""The paper's claims as experiments on the embedded corpus: `make findings`."""
