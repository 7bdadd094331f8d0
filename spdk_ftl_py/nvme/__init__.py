"""The control side of NVMe/TCP: admin queues, and I/O queues until their Connect is done."""
