"""The zoo: where weights come from, how they are verified, and how they become a network."""
