"""LitServe with its dynamic batching, as its documentation shows. Needs nothing of ours.

python benchmarks/peers/serving_litserve.py MODEL PORT
"""

import sys

import litserve
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

MAX_LENGTH = 220  # as the model was trained


class Classifier(litserve.LitAPI):
    def __init__(self, model: str) -> None:
        super().__init__(max_batch_size=64, batch_timeout=0.005, api_path="/predict")
        self.name = model

    def setup(self, device: str) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(self.name)
        self.model = AutoModelForSequenceClassification.from_pretrained(self.name).eval()

    def decode_request(self, request: dict[str, str]) -> str:
        return request["inputs"]

    def batch(self, inputs: list[str]) -> list[str]:
        return list(inputs)

    def predict(self, texts: list[str]) -> list[list[float]]:
        tokens = self.tokenizer(texts, truncation=True, max_length=MAX_LENGTH, padding=True, return_tensors="pt")
        with torch.inference_mode():
            return self.model(**tokens).logits.softmax(-1).tolist()

    def unbatch(self, output: list[list[float]]) -> list[list[float]]:
        return output

    def encode_response(self, output: list[float]) -> list[dict[str, str | float]]:
        labels = self.model.config.id2label
        return [{"label": labels[place], "score": score} for place, score in enumerate(output)]


if __name__ == "__main__":
    server = litserve.LitServer(Classifier(sys.argv[1]), accelerator="cpu")
    server.run(host="127.0.0.1", port=int(sys.argv[2]), generate_client_file=False)
