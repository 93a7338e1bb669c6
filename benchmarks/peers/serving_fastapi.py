"""What one writes in the first ten minutes: FastAPI, a transformers pipeline, a thread for each request.

python benchmarks/peers/serving_fastapi.py MODEL PORT
"""

import sys

import torch
import uvicorn
from fastapi import FastAPI
from transformers import pipeline

MAX_LENGTH = 220  # as the model was trained

app = FastAPI()


@app.post("/predict")
def predict(request: dict[str, str]) -> list[dict[str, str | float]]:
    with torch.inference_mode():
        return classify([request["inputs"]], truncation=True, max_length=MAX_LENGTH)[0]


if __name__ == "__main__":
    classify = pipeline("text-classification", model=sys.argv[1], top_k=None, dtype=torch.float32)
    uvicorn.run(app, port=int(sys.argv[2]), log_level="warning")
