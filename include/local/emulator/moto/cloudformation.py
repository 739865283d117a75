"""What moto's CloudFormation lacks of `include/cloud/aws.yaml`: alarms, and a bucket that is there."""

from __future__ import annotations

from typing import Any

from moto.cloudformation import parsing
from moto.cloudwatch.models import cloudwatch_backends
from moto.core.common_models import CloudFormationModel
from moto.s3.models import FakeBucket, s3_backends
from moto.utilities.utils import get_partition


class AlarmResource(CloudFormationModel):
    """`AWS::CloudWatch::Alarm`, kept where PutMetricAlarm keeps its own.

    Attributes:
        physical_resource_id: Its name, what `Ref` gives.
        arn: Its Amazon resource name.
    """

    def __init__(self, name: str, arn: str) -> None:
        self.physical_resource_id = name
        self.arn = arn

    @staticmethod
    def cloudformation_name_type() -> str:
        """Returns the property that names it."""
        return "AlarmName"

    @staticmethod
    def cloudformation_type() -> str:
        """Returns the type that a template calls it by."""
        return "AWS::CloudWatch::Alarm"

    @classmethod
    def has_cfn_attr(cls, attr: str) -> bool:
        """Tells what `Fn::GetAtt` may ask for."""
        return attr == "Arn"

    def get_cfn_attribute(self, attribute_name: str) -> str:
        """Answers `Fn::GetAtt`; `Arn` is all that it has."""
        return self.arn

    @classmethod
    def create_from_cloudformation_json(
        cls, resource_name: str, cloudformation_json: Any, account_id: str, region_name: str, **_: Any
    ) -> AlarmResource:
        """Puts the alarm."""
        told = cloudformation_json["Properties"]
        alarm = cloudwatch_backends[account_id][region_name].put_metric_alarm(
            name=resource_name,
            namespace=told["Namespace"],
            metric_name=told["MetricName"],
            comparison_operator=told["ComparisonOperator"],
            evaluation_periods=int(told["EvaluationPeriods"]),
            datapoints_to_alarm=told.get("DatapointsToAlarm"),
            period=int(told["Period"]),
            threshold=float(told["Threshold"]),
            statistic=told.get("Statistic"),
            extended_statistic=told.get("ExtendedStatistic"),
            description=told.get("AlarmDescription", ""),
            dimensions=told.get("Dimensions", []),
            alarm_actions=told.get("AlarmActions", []),
            treat_missing_data=told.get("TreatMissingData", "missing"),
        )
        return cls(alarm.name, alarm.alarm_arn)

    @classmethod
    def update_from_cloudformation_json(
        cls,
        original_resource: AlarmResource,
        new_resource_name: str,
        cloudformation_json: Any,
        account_id: str,
        region_name: str,
    ) -> AlarmResource:
        """Puts it anew."""
        if new_resource_name != original_resource.physical_resource_id:
            cls.delete_from_cloudformation_json(
                original_resource.physical_resource_id, {}, account_id, region_name
            )
        return cls.create_from_cloudformation_json(
            new_resource_name, cloudformation_json, account_id, region_name
        )

    @classmethod
    def delete_from_cloudformation_json(
        cls, resource_name: str, cloudformation_json: Any, account_id: str, region_name: str
    ) -> None:
        """Deletes it."""
        cloudwatch_backends[account_id][region_name].delete_alarms([resource_name])


class BucketResource(CloudFormationModel):
    """`AWS::S3::Bucket` as moto has it, which takes over a bucket of that name.

    An emulator that starts again finds its buckets on disk and knows nothing of the stack that made them.
    """

    cloudformation_name_type = staticmethod(FakeBucket.cloudformation_name_type)
    cloudformation_type = staticmethod(FakeBucket.cloudformation_type)
    has_cfn_attr = FakeBucket.has_cfn_attr
    update_from_cloudformation_json = FakeBucket.update_from_cloudformation_json
    delete_from_cloudformation_json = FakeBucket.delete_from_cloudformation_json

    @classmethod
    def create_from_cloudformation_json(
        cls, resource_name: str, cloudformation_json: Any, account_id: str, region_name: str, **kwargs: Any
    ) -> FakeBucket:
        """Makes the bucket, or brings the one that is there up to date."""
        found = s3_backends[account_id][get_partition(region_name)].buckets.get(resource_name)
        if found is None:
            return FakeBucket.create_from_cloudformation_json(
                resource_name, cloudformation_json, account_id, region_name, **kwargs
            )
        return FakeBucket.update_from_cloudformation_json(
            found, resource_name, cloudformation_json, account_id, region_name
        )


def teach_moto() -> None:
    """Lets moto find the classes above, which it looks for among its base class's children."""
    # Of two classes for a type it takes the later one.
    for known in (parsing.get_model_list, parsing.get_model_map, parsing.get_name_type_map):
        known.cache_clear()
