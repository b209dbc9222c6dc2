"""The paper's claims as experiments on the synthetic corpus: `make findings`."""
