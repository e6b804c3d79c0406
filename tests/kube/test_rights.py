"""The chart's rights: the operator's account may do its work, in its namespace, and no more."""

import pytest

from harness.kube.api import Api, ApiError, access_of_account
from harness.kube.elastic import Cluster
from harness.kube.installation import Installation

pytestmark = pytest.mark.kube


async def test_the_operators_account_may_do_its_work_in_its_namespace_and_no_more(
    cluster: Cluster, operator: Installation, api: Api
) -> None:
    await operator.apply()
    here, pod = f"/api/v1/namespaces/{cluster.namespace}", {"metadata": {"name": "x"}, "spec": {"containers": []}}
    async with Api(await access_of_account(api, cluster.namespace, "holdfast-operator")) as account:

        async def is_forbidden(method: str, path: str) -> bool:
            try:
                await (account.get(path) if method == "get" else account.create(path, pod))
            except ApiError as error:
                return error.status == 403
            return False

        for method, path in (
            ("get", "/api/v1/nodes"),
            ("get", f"{here}/pods"),
            ("get", cluster.jobs),
            ("get", f"{here}/secrets/any"),
            ("create", f"{here}/pods"),
        ):
            assert not await is_forbidden(method, path), path
        for method, path in (
            ("get", f"{here}/secrets"),
            ("get", "/api/v1/secrets"),
            ("get", "/api/v1/namespaces/kube-system/secrets/any"),
            ("get", "/api/v1/pods"),
            ("get", "/apis/holdfast.dev/v1alpha1/elasticjobs"),
            ("create", "/api/v1/namespaces/default/pods"),
            ("create", "/api/v1/nodes"),
            ("create", f"{here}/serviceaccounts"),
            ("create", f"/apis/rbac.authorization.k8s.io/v1/namespaces/{cluster.namespace}/roles"),
        ):
            assert await is_forbidden(method, path), path
