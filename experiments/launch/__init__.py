"""Scripts and specs that run one command on all processes of a cluster; docs/clusters.md compares them."""
