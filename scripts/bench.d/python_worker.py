"""Conductor's own Python worker, doing what `k1ops worker` does in the benchmark: it runs a program for
each task and answers how that ended.

    python_worker.py API TASK THREADS
"""

import subprocess
import sys

from conductor.client.automator.task_handler import TaskHandler
from conductor.client.configuration.configuration import Configuration
from conductor.client.worker.worker_task import worker_task

API, TASK, THREADS = sys.argv[1], sys.argv[2], int(sys.argv[3])


@worker_task(task_definition_name=TASK, thread_count=THREADS)
def bench_agent() -> dict:
    done = subprocess.run(["true"], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)
    return {"exit_code": done.returncode, "stdout": done.stdout}


if __name__ == "__main__":
    handler = TaskHandler(configuration=Configuration(server_api_url=API), scan_for_annotated_workers=True)
    handler.start_processes()
    handler.join_processes()
