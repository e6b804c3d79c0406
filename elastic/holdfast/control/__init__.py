"""The pure state machines that steer a job."""
