"""Networks that turn images into features to compare distributions with."""
