"""From a trained model and a recipe to a measured artifact for an edge device."""
