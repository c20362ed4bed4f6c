"""What the pipeline runs on: brokers, containers, dashboards, documents."""
