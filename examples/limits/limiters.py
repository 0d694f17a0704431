import os

from greenkit import Limiter

# The provider's quota, for all workers and web processes together.
llm = Limiter(
    os.environ["QUEUE"],
    requests="600/min burst 5",
    tokens="60_000/min burst 1_000",
    share=os.environ["REDIS_URL"],
    feedback="openai",
)

# One for each user, wherever the request comes in.
per_user = Limiter(f"{os.environ['QUEUE']}-api", requests="3/min", share=os.environ["REDIS_URL"])
