FROM ubuntu:22.04
COPY . /home/user/project
RUN mkdir /data && chown -R 1000 /
