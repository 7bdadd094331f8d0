"""What hosts do in a simulation: synthetic workloads and traces (docs/policies.md, "Workloads and traces")."""
