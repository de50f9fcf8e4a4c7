"""What the library costs, beside others and beside the least that the work can cost."""
