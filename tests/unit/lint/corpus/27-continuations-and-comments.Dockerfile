FROM python:3.11-slim
RUN pip install \
    # torch for inference
    torch==2.4.0 \

    fastapi \
    uvicorn
COPY \
  serve.py \
  src/model.py \
  /app/
CMD python serve.py
