FROM python:3.12-slim
WORKDIR /srv
COPY weights/model.safetensors /srv/weights/
COPY requirements-cpu.txt .
RUN pip install --no-cache-dir -r requirements-cpu.txt
COPY serve.py .
USER nobody
CMD ["python", "serve.py"]
