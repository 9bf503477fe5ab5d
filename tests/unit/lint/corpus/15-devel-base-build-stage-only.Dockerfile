FROM nvidia/cuda:12.4.1-devel-ubuntu22.04 AS build
RUN pip install torch
FROM nvidia/cuda:12.4.1-runtime-ubuntu22.04
COPY --from=build /usr/local/lib/python3.10 /usr/local/lib/python3.10
USER 10001
