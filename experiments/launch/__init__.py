"""Scripts and specs that run one command on all processes of a cluster; see docs/clusters.md."""
