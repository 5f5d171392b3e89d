"""Several trainers on one data set, tested on many: shared by in_domain, cross_domain and phantom_to_real."""
