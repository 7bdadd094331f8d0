"""NVMe/TCP control side: what happens on admin queues, and on I/O queues until their Connect is done."""
