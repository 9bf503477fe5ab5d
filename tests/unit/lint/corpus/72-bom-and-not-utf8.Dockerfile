FROM python:3.11-slim
# café
WORKDIR /app
COPY . .
LABEL who="é"
