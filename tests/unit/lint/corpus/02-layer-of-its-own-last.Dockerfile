FROM python:3.11-slim
WORKDIR /app
COPY requirements.txt .
RUN pip install --no-cache-dir --index-url "$INDEX" -r requirements.txt
COPY serve.py .
COPY src ./src
COPY --chown=root:root checkpoint.pth.tar ./model/
CMD ["python", "serve.py"]
