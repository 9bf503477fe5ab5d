FROM python:3.11-slim
WORKDIR /srv
WORKDIR app
COPY . .
RUN chmod -R a+rX .
