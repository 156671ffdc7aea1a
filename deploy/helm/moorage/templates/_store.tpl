{{/* A bundled store: Service and StatefulSet of one pod. Takes (dict "root" $ "name" "port" "values" {image, size,
     storageClass, resources} "uid" "passwordEnv" "command" "probe" "mount") and optionally "env", "config" (mount the
     ConfigMap of that name), "run" (a writable directory for sockets). The password's key is <name>-password. */}}
{{- define "moorage.store" }}
{{- $name := printf "%s-%s" (include "moorage.fullname" .root) .name }}
---
apiVersion: v1
kind: Service
metadata:
  name: {{ $name }}
  labels: {{- include "moorage.labels" (list .root .name) | nindent 4 }}
spec:
  clusterIP: None
  selector: {{- include "moorage.selector" (list .root .name) | nindent 4 }}
  ports:
    - {name: {{ .name | trunc 15 }}, port: {{ .port }}}
---
apiVersion: apps/v1
kind: StatefulSet
metadata:
  name: {{ $name }}
  labels: {{- include "moorage.labels" (list .root .name) | nindent 4 }}
spec:
  replicas: 1
  serviceName: {{ $name }}
  selector:
    matchLabels: {{- include "moorage.selector" (list .root .name) | nindent 6 }}
  template:
    metadata:
      labels: {{- include "moorage.selector" (list .root .name) | nindent 8 }}
    spec:
      serviceAccountName: {{ $name }}
      automountServiceAccountToken: false
      enableServiceLinks: false
      securityContext:
        runAsNonRoot: true
        runAsUser: {{ .uid }}
        runAsGroup: {{ .uid }}
        fsGroup: {{ .uid }}
        seccompProfile:
          type: RuntimeDefault
      containers:
        - name: {{ .name }}
          image: {{ .values.image }}
          {{- with .command }}
          command: {{- toYaml . | nindent 12 }}
          {{- end }}
          env:
            {{- include "moorage.secretEnv" (list .root .passwordEnv (printf "%s-password" .name)) | nindent 12 }}
            {{- with .env }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
          ports:
            - {name: {{ .name | trunc 15 }}, containerPort: {{ .port }}}
          startupProbe: {{- toYaml (merge (dict "periodSeconds" 2 "failureThreshold" 60) .probe) | nindent 12 }}
          livenessProbe: {{- toYaml (merge (dict "periodSeconds" 10 "timeoutSeconds" 5) .probe) | nindent 12 }}
          readinessProbe: {{- toYaml (merge (dict "periodSeconds" 5 "timeoutSeconds" 5) .probe) | nindent 12 }}
          resources: {{- toYaml .values.resources | nindent 12 }}
          securityContext: {{- include "moorage.containerSecurity" .root | nindent 12 }}
          volumeMounts:
            - {name: data, mountPath: {{ .mount }}}
            - {name: tmp, mountPath: /tmp}
            {{- with .run }}
            - {name: run, mountPath: {{ . }}}
            {{- end }}
            {{- if .config }}
            - {name: config, mountPath: /etc/moorage, readOnly: true}
            {{- end }}
      volumes:
        - name: tmp
          emptyDir: {}
        {{- if .run }}
        - name: run
          emptyDir: {}
        {{- end }}
        {{- if .config }}
        - name: config
          configMap:
            name: {{ $name }}
        {{- end }}
  volumeClaimTemplates:
    {{- include "moorage.claim" (dict "name" "data" "volume" .values) | nindent 4 }}
{{- end -}}
