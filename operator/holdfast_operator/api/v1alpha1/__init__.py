"""holdfast.dev/v1alpha1."""

GROUP, VERSION = "holdfast.dev", "v1alpha1"
KIND, PLURAL, SINGULAR, SHORT_NAME = "ElasticJob", "elasticjobs", "elasticjob", "ej"
