-- One index for each column that is searched by, as in PostgreSQL.
CREATE INDEX IF NOT EXISTS k1_workflow_metadata_created_at_idx ON k1_workflow_metadata (created_at);
CREATE INDEX IF NOT EXISTS k1_workflow_metadata_source_idx ON k1_workflow_metadata (source);
CREATE INDEX IF NOT EXISTS k1_execution_metrics_workflow_id_idx ON k1_execution_metrics (workflow_id);
CREATE INDEX IF NOT EXISTS k1_execution_metrics_task_id_idx ON k1_execution_metrics (task_id);
CREATE INDEX IF NOT EXISTS k1_execution_metrics_metric_name_idx ON k1_execution_metrics (metric_name);
CREATE INDEX IF NOT EXISTS k1_execution_metrics_recorded_at_idx ON k1_execution_metrics (recorded_at);
CREATE INDEX IF NOT EXISTS k1_quality_gates_workflow_id_idx ON k1_quality_gates (workflow_id);
CREATE INDEX IF NOT EXISTS k1_quality_gates_passed_idx ON k1_quality_gates (passed);
CREATE INDEX IF NOT EXISTS k1_quality_gates_critical_idx ON k1_quality_gates (critical);
CREATE INDEX IF NOT EXISTS k1_agent_executions_workflow_id_idx ON k1_agent_executions (workflow_id);
CREATE INDEX IF NOT EXISTS k1_agent_executions_task_id_idx ON k1_agent_executions (task_id);
CREATE INDEX IF NOT EXISTS k1_agent_executions_status_idx ON k1_agent_executions (status);
CREATE INDEX IF NOT EXISTS k1_agent_executions_started_at_idx ON k1_agent_executions (started_at);
