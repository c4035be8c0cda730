-- One index for each column that is searched by. A column that has one already, under whatever
-- name the original gave it, gets no second one.
DO $$
DECLARE
    wanted record;
BEGIN
    FOR wanted IN
        SELECT * FROM (VALUES
            ('k1_workflow_metadata', 'created_at'),
            ('k1_workflow_metadata', 'source'),
            ('k1_execution_metrics', 'workflow_id'),
            ('k1_execution_metrics', 'task_id'),
            ('k1_execution_metrics', 'metric_name'),
            ('k1_execution_metrics', 'recorded_at'),
            ('k1_quality_gates', 'workflow_id'),
            ('k1_quality_gates', 'passed'),
            ('k1_quality_gates', 'critical'),
            ('k1_agent_executions', 'workflow_id'),
            ('k1_agent_executions', 'task_id'),
            ('k1_agent_executions', 'status'),
            ('k1_agent_executions', 'started_at')) AS columns (tbl, col)
        WHERE NOT EXISTS (
            SELECT FROM pg_index i
            JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
            WHERE i.indrelid = ('public.' || columns.tbl)::regclass
                AND a.attname = columns.col AND i.indpred IS NULL AND i.indisvalid)
    LOOP
        EXECUTE format('CREATE INDEX ON public.%I (%I)', wanted.tbl, wanted.col);
    END LOOP;
END
$$;
