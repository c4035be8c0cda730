"""Runs the real Conductor once, so that its own migrations make the schema and its own code writes
the rows that generate.py multiplies. The outcome is one `pg_dump -Fc` file in the cache.

Wherever a payload would be, the workers of this run write a marker instead (`@@3:log:40:<newline>@@`);
generate.py puts text of realistic entropy in its place. The newline inside a marker shows how a
newline is escaped at that place: JSON in a column, JSON inside of JSON, or plain text.
"""

import json
import os
import pathlib
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
import uuid

PROPERTIES = """
server.port={port}
server.address=127.0.0.1
conductor.db.type=postgres
conductor.queue.type=postgres
conductor.indexing.enabled=true
conductor.indexing.type=postgres
conductor.elasticsearch.version=0
spring.datasource.url=jdbc:postgresql://127.0.0.1:{pg_port}/{database}
spring.datasource.username={user}
spring.datasource.password={password}
conductor.workflow-execution-lock.type=local_only
conductor.app.ownerEmailMandatory=false
conductor.integrations.ai.enabled=false
management.health.elasticsearch.enabled=false
management.endpoints.web.exposure.include=health
management.endpoint.health.show-details=always
loadSample=false
"""

TASK_TYPES = ["plan", "implement", "unit_test", "review", "lint", "security_scan", "integrate", "publish"]


def marker(index, kind, size):
    return f"@@{index}:{kind}:{size}:\n@@"


class Api:
    def __init__(self, port, timeout=30):
        self.base, self.timeout = f"http://127.0.0.1:{port}/api", timeout

    def call(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.base + path, data, {"Content-Type": "application/json"}, method=method)
        with urllib.request.urlopen(request, timeout=self.timeout) as answer:
            text = answer.read().decode()
        try:
            return json.loads(text)
        except ValueError:
            return text


def simple(name, inputs):
    return {"name": name, "taskReferenceName": f"{name}_ref", "type": "SIMPLE", "inputParameters": inputs}


def definitions():
    """A chain, a fork with a join, and a chain that runs the first one as a sub-workflow."""
    def wired(names):
        inputs = {"goal": "${workflow.input.goal}", "repository": "${workflow.input.repository}"}
        tasks = []
        for name in names:
            tasks.append(simple(name, dict(inputs)))
            inputs = {"repository": "${workflow.input.repository}", "before": "${%s_ref.output.summary}" % name}
        return tasks

    def workflow(name, description, tasks, last):
        return {"name": name, "description": description, "version": 1, "schemaVersion": 2, "tasks": tasks,
                "ownerEmail": "k1@example.org", "timeoutSeconds": 0, "timeoutPolicy": "ALERT_ONLY",
                "outputParameters": {"summary": "${%s_ref.output.summary}" % last,
                                     "artifact": "${%s_ref.output.artifact}" % last}}

    chain = workflow("feature_pipeline", "Plans, implements and publishes a feature",
                     wired(["plan", "implement", "unit_test", "review", "publish"]), "publish")
    fork = {"name": "fork", "taskReferenceName": "fork_ref", "type": "FORK_JOIN",
            "forkTasks": [wired(["unit_test"]), wired(["lint"]), wired(["security_scan"])]}
    join = {"name": "join", "taskReferenceName": "join_ref", "type": "JOIN",
            "joinOn": ["unit_test_ref", "lint_ref", "security_scan_ref"]}
    gates = workflow("quality_gates", "Runs all gates beside each other",
                     wired(["implement"]) + [fork, join] + wired(["review"]), "review")
    sub = {"name": "feature", "taskReferenceName": "feature_ref", "type": "SUB_WORKFLOW",
           "inputParameters": {"goal": "${plan_ref.output.summary}", "repository": "${workflow.input.repository}"},
           "subWorkflowParam": {"name": "feature_pipeline", "version": 1}}
    release = workflow("release_train", "Plans a release, runs a feature and integrates it",
                       wired(["plan"]) + [sub] + wired(["integrate"]), "integrate")
    return [chain, gates, release]


def register(api):
    api.call("POST", "/metadata/taskdefs", [
        {"name": name, "description": f"The {name} agent", "retryCount": 1, "timeoutSeconds": 7200,
         "responseTimeoutSeconds": 3600, "timeoutPolicy": "TIME_OUT_WF", "ownerEmail": "k1@example.org",
         "inputKeys": ["goal", "repository", "before"], "outputKeys": ["summary", "artifact", "coverage"]}
        for name in TASK_TYPES])
    for definition in definitions():
        api.call("POST", "/metadata/workflow", definition)


class Run:
    """Starts the workflows and works on their tasks. `left` numbers workflows that stay half done."""

    def __init__(self, api, log):
        self.api, self.log, self.next_marker, self.done = api, log, 0, 0

    def text(self, kind, size):
        self.next_marker += 1
        return marker(self.next_marker, kind, size)

    def start(self, name, number):
        return self.api.call("POST", f"/workflow/{name}?version=1&correlationId={uuid.uuid4()}", {
            "goal": self.text("prose", 60 + number * 12),
            "repository": f"https://git.example.org/team/{self.text('ident', 2)}.git",
            "options": {"branch": self.text("ident", 3), "budget": self.text("number", 0), "dryRun": False},
            "requirements": [self.text("prose", 14), self.text("prose", 22)]})

    def work(self, task, number):
        task_id, kind = task["taskId"], task["taskType"]
        result = {"workflowInstanceId": task["workflowInstanceId"], "taskId": task_id,
                  "workerId": f"agent-{kind}-{number % 5}"}
        for _ in range(number % 3):
            self.api.call("POST", f"/tasks/{task_id}/log", self.text("line", 1))
        if number % 29 == 7:
            return self.api.call("POST", "/tasks", {
                **result, "status": "FAILED_WITH_TERMINAL_ERROR",
                "reasonForIncompletion": self.text("prose", 25), "outputData": {"exitCode": 1}})
        return self.api.call("POST", "/tasks", {
            **result, "status": "COMPLETED",
            "outputData": {"summary": self.text("prose", 50 + number % 7 * 20), "exitCode": 0,
                           "artifact": f"/artifacts/{self.text('ident', 4)}/{self.text('hex', 40)}.tgz",
                           "coverage": self.text("number", 0),
                           "log": self.text("log", 3 + number % 5 * 2),
                           "files": [{"path": self.text("path", 1), "lines": self.text("number", 0),
                                      "sha256": self.text("hex", 64)} for _ in range(number % 4)]}})

    def until_quiet(self, rounds):
        """Polls every queue; ends when nothing came for a while or after so many tasks."""
        quiet_since = time.monotonic()
        while time.monotonic() - quiet_since < 8 and self.done < rounds:
            for kind in TASK_TYPES:
                for task in self.api.call("GET", f"/tasks/poll/batch/{kind}?count=4&timeout=20&workerid=agent-{kind}"):
                    self.work(task, self.done)
                    self.done += 1
                    quiet_since = time.monotonic()


def tail(file):
    return "\n".join(file.read_text(errors="replace").splitlines()[-20:])


def wait_until_healthy(api, process, deadline, log_file):
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise SystemExit(f"Conductor ended with code {process.returncode}; its log ends with:\n{tail(log_file)}")
        try:
            api.call("GET", "/metadata/taskdefs")
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise SystemExit("Conductor did not answer in time")


K1_ROWS = """
INSERT INTO k1_workflow_metadata (workflow_id, conductor_execution_id, created_at, updated_at, user_id, source, tags, custom_metadata)
SELECT gen_random_uuid(), workflow_id, created_on, modified_on, 'user-' || id % 40, (ARRAY['MCP','CLI','API'])[1 + id % 3],
       jsonb_build_object('team', (ARRAY['platform','payments','search'])[1 + id % 3], 'priority', id % 5),
       jsonb_build_object('goal', {prose}, 'ticket', {ident})
FROM (SELECT *, row_number() OVER (ORDER BY created_on) AS id FROM workflow) w;
INSERT INTO k1_agent_executions (execution_id, workflow_id, task_id, agent_type, started_at, completed_at, status, exit_code,
                                 stdout_log, stderr_log, result_file_path, metrics)
SELECT gen_random_uuid(), m.workflow_id, t.task_id, coalesce(t.json_data::jsonb->>'taskType', 'agent'), t.created_on, t.modified_on,
       lower(coalesce(t.json_data::jsonb->>'status', 'completed')), 0, {stdout}, {stderr}, '/artifacts/' || {path},
       jsonb_build_object('tokens', {number}, 'seconds', {number2}, 'model', 'agent-' || t.id % 3)
FROM (SELECT *, row_number() OVER (ORDER BY created_on) AS id FROM task) t JOIN k1_workflow_metadata m ON m.conductor_execution_id = t.json_data::jsonb->>'workflowInstanceId';
INSERT INTO k1_quality_gates (gate_id, workflow_id, task_id, gate_name, gate_threshold, actual_value, passed, critical, checked_at, details)
SELECT gen_random_uuid(), e.workflow_id, e.task_id, g, 80, (70 + random() * 30)::numeric(5,2), random() > 0.1, g = 'security',
       e.completed_at, jsonb_build_object('report', {prose2}, 'tool', g)
FROM k1_agent_executions e CROSS JOIN unnest(ARRAY['coverage','security']) g;
INSERT INTO k1_execution_metrics (metric_id, workflow_id, task_id, metric_name, metric_value, metric_unit, recorded_at, tags)
SELECT gen_random_uuid(), e.workflow_id, e.task_id, n, (random() * 10000)::numeric(9,3), 'ms', e.completed_at,
       jsonb_build_object('host', {ident2})
FROM k1_agent_executions e CROSS JOIN unnest(ARRAY['duration','queue_time','cpu_time']) n;
"""


def k1_rows():
    """The markers' numbers must differ from row to row, so they are built in SQL."""
    def sql(base, kind, size):
        return f"('@@' || ({base} + (random() * 1000000)::int) || ':{kind}:{size}:' || chr(10) || '@@')"

    return K1_ROWS.format(**{
        "prose": sql(1_000_000, "prose", 30), "ident": sql(2_100_000, "ident", 2),
        "stdout": sql(4_000_000, "log", 55), "stderr": sql(6_000_000, "log", 4), "path": sql(8_000_000, "path", 1),
        "number": sql(9_500_000, "number", 0), "number2": sql(11_000_000, "number", 0),
        "prose2": sql(13_000_000, "prose", 12), "ident2": sql(15_000_000, "ident", 2)})


def make(server, database, seed_file, java, jar, port, migrations, log):
    """Fills `database` and dumps it to `seed_file`."""
    with tempfile.TemporaryDirectory(prefix="k1ops-bench-conductor.") as scratch:
        run_conductor(server, database, pathlib.Path(scratch), java, jar, port, log)
    for migration in sorted(pathlib.Path(migrations).glob("*.sql")):
        server.run(database, file=migration)
    server.run(database, sql=k1_rows())
    partial = f"{seed_file}.partial"
    server.tool("pg_dump", "-Fc", "-f", partial, database)
    os.replace(partial, seed_file)


def run_conductor(server, database, work, java, jar, port, log):
    """Starts it, lets the workflows run, and stops it gracefully."""
    config = work / "conductor.properties"
    config.write_text(PROPERTIES.format(port=port, pg_port=server.port, database=database, user=server.user,
                                        password=server.password))
    config.chmod(0o600)
    environment = {**os.environ, "CONDUCTOR_CONFIG_FILE": str(config), "TMPDIR": str(work)}
    with open(work / "conductor.log", "wb") as output:
        process = subprocess.Popen([java, "-Xmx1g", f"-Djava.io.tmpdir={work}", "-jar", jar], cwd=work,
                                   env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
    try:
        api = Api(port)
        wait_until_healthy(api, process, time.monotonic() + 240, work / "conductor.log")
        register(api)
        run = Run(api, log)
        for number in range(12):
            run.start(["feature_pipeline", "quality_gates", "release_train"][number % 3], number)
        run.until_quiet(10_000)
        # A few that are under way when the backup is taken: their queue messages are there.
        for number in range(4):
            run.start(["feature_pipeline", "quality_gates"][number % 2], number)
        run.until_quiet(run.done + 7)
        time.sleep(2)  # indexing is asynchronous, and nothing tells when it is done
        log(f"Conductor completed {run.done} tasks")
    finally:
        process.terminate()
        process.wait(timeout=60)
