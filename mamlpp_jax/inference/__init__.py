"""Using a trained model without the data it was trained on."""
