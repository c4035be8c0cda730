-- One row a workflow. Executions and gates are aggregated apart, since joining both to the
-- workflow multiplies one by the other. The duration is counted in whole microseconds, as
-- PostgreSQL does; julianday() would round to milliseconds.
DROP VIEW IF EXISTS k1_workflow_summary;
CREATE VIEW k1_workflow_summary AS
SELECT
    w.workflow_id,
    w.conductor_execution_id,
    w.created_at,
    w.source,
    coalesce(e.total_tasks, 0) AS total_tasks,
    coalesce(e.completed_tasks, 0) AS completed_tasks,
    coalesce(e.failed_tasks, 0) AS failed_tasks,
    coalesce(g.total_quality_gates, 0) AS total_quality_gates,
    coalesce(g.passed_quality_gates, 0) AS passed_quality_gates,
    coalesce(g.critical_failures, 0) AS critical_failures,
    e.workflow_started,
    e.workflow_completed,
    ((strftime('%s', substr(e.workflow_completed, 1, 19))
            - strftime('%s', substr(e.workflow_started, 1, 19))) * 1000000
        + CAST(substr(e.workflow_completed, 21, 6) AS INTEGER)
        - CAST(substr(e.workflow_started, 21, 6) AS INTEGER)) / 1000000.0 AS duration_seconds
FROM k1_workflow_metadata w
LEFT JOIN (
    SELECT
        workflow_id,
        count(*) AS total_tasks,
        count(*) FILTER (WHERE status = 'COMPLETED') AS completed_tasks,
        count(*) FILTER (WHERE status IN
            ('FAILED', 'FAILED_WITH_TERMINAL_ERROR', 'TIMED_OUT')) AS failed_tasks,
        min(started_at) AS workflow_started,
        max(completed_at) AS workflow_completed
    FROM k1_agent_executions
    GROUP BY workflow_id
) e ON e.workflow_id = w.workflow_id
LEFT JOIN (
    SELECT
        workflow_id,
        count(*) AS total_quality_gates,
        count(*) FILTER (WHERE passed) AS passed_quality_gates,
        count(*) FILTER (WHERE critical AND NOT passed) AS critical_failures
    FROM k1_quality_gates
    GROUP BY workflow_id
) g ON g.workflow_id = w.workflow_id;
