"""What a job will read: from indices of samples to extents, and those ahead of the job."""
