"""From an uploaded archive to checked images in one canonical Parquet file. Runs in a worker, needs no torch."""
