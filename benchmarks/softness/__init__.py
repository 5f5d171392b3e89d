"""A cohort of six contrasts with true areas of the cord, and arms that differ in labels and loss."""
