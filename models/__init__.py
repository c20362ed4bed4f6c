"""Training, export and execution of the sequence encoder: the only home of torch and onnxruntime."""
