"""What computes: devices, memory, precision of products, speed."""
