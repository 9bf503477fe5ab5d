from python:3.11-slim as base
workdir /app
copy . .
run pip install -r requirements.txt
cmd ["python", "serve.py"]
