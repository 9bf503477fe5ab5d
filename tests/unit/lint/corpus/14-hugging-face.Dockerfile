FROM python:3.11-slim
RUN python -c "from transformers import AutoModel; AutoModel.from_pretrained('acme/bert')"
RUN huggingface-cli download acme/llm --revision 0123abc
RUN hf download acme/llm
