"""`python -m holdfast_operator.api`: tells the CustomResourceDefinition of the API, as YAML."""

import sys

from holdfast_operator.api.v1alpha1.crd import as_yaml

sys.stdout.write(as_yaml())
