FROM debian:12-slim
RUN apt-get update
RUN apt-get update && apt-get install -y curl
RUN apt-get install -y git
RUN apt-get update && apt-get -y install --no-install-recommends vim; apt-get clean
