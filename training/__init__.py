"""Makes the models that the engine serves: corpus, noise, objective, trainer."""
