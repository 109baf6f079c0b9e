"""Models as guests: loaded by transformers, asked through an adapter, put back as they were."""
