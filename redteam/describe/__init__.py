"""Model types described by trying: where a network has its heads, neurons and norms, proven on a small random one."""
