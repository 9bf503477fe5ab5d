FROM python:3.11-slim
WORKDIR /app
COPY src src
RUN pip install --no-cache-dir fastapi==0.110 uvicorn
CMD ["uvicorn", "src.model:app"]
