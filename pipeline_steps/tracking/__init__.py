"""Run records to MLflow. Only this package imports mlflow."""
