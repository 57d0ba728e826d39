"""Sources -> shards -> streams: any image collection once to WebDataset, then batches that resume exactly."""
