{{- define "k1.name" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* k1.selector (dict "root" . "part" "redis"): what tells a part's pods; k1.labels takes the same. */}}
{{- define "k1.selector" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .part }}
{{- end -}}

{{- define "k1.labels" -}}
{{ include "k1.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end -}}

{{- define "k1.image" -}}
{{ printf "%s:%s" .repository .tag | quote }}
{{- end -}}

{{- define "k1.databaseHost" -}}
{{- if .Values.postgresql.enabled }}{{ include "k1.name" . }}-postgresql{{ else }}{{ .Values.postgresql.host }}{{ end -}}
{{- end -}}

{{- define "k1.databaseSecret" -}}
{{- .Values.database.existingSecret | default (printf "%s-database" (include "k1.name" .)) -}}
{{- end -}}

{{- define "k1.redisUrl" -}}
{{- if .Values.redis.enabled }}redis://{{ include "k1.name" . }}-redis:6379{{ else }}{{ .Values.redis.url }}{{ end -}}
{{- end -}}

{{- define "k1.redisSecret" -}}
{{- .Values.redis.existingSecret | default (printf "%s-redis" (include "k1.name" .)) -}}
{{- end -}}

{{/* A password that is there stays: the database was made with it. */}}
{{- define "k1.kept" -}}
{{- $there := lookup "v1" "Secret" .root.Release.Namespace .secret -}}
{{- if and $there (hasKey ($there.data | default dict) .key) -}}
{{- index $there.data .key -}}
{{- else -}}
{{- randAlphaNum 48 | b64enc -}}
{{- end -}}
{{- end -}}

{{- define "k1.shut" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{- define "k1.pod" -}}
automountServiceAccountToken: false
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}
