// Shows the service's own OpenAPI description as a page.

import { byId, h } from "./dom.js";

const nameOf = (schema) => {
  if (!schema) return "";
  if (schema.$ref) return schema.$ref.split("/").at(-1);
  if (schema.anyOf) return schema.anyOf.map(nameOf).join(" or ");
  if (schema.type === "array") return `list of ${nameOf(schema.items) || "numbers"}`;
  if (schema.const) return `“${schema.const}”`;
  return schema.format ?? schema.type ?? "";
};

function route(path, method, operation) {
  const bodies = Object.entries(operation.requestBody?.content ?? {});
  const queries = (operation.parameters ?? []).filter((parameter) => parameter.in === "query");
  const all = Object.entries(operation.responses ?? {});
  const answers = all.filter(([status]) => Number(status) < 400);
  const errors = all.map(([status]) => status).filter((status) => Number(status) >= 400);
  return h("section", { class: "route" },
    h("h3", {}, h("code", { class: "method" }, method.toUpperCase()), " ", h("code", {}, path)),
    h("p", {}, operation.summary ?? ""),
    operation.description ? h("p", { class: "fine" }, operation.description.replaceAll("`", "")) : null,
    queries.map(({ name, description }) => h("p", { class: "fine" }, "Query ", h("code", {}, name), `: ${description}.`)),
    bodies.length ? h("p", { class: "fine" }, `Body: ${bodies.map(([type]) => type).join(" or ")}.`) : null,
    h("dl", { class: "facts" }, answers.flatMap(([status, answer]) => [
      h("dt", {}, status),
      h("dd", {}, [answer.description, ...Object.entries(answer.content ?? {}).map(([type, { schema }]) => [type, nameOf(schema)].filter(Boolean).join(": "))].filter(Boolean).join("; ")),
    ]), errors.length ? [h("dt", {}, "errors"), h("dd", {}, `${errors.join(", ")}, as application/problem+json: detail, where, remedy`)] : null));
}

function schema(name, { properties = {}, enum: values, description }) {
  return h("section", { class: "route" }, h("h3", {}, h("code", {}, name)),
    description ? h("p", { class: "fine" }, description) : null,
    values ? h("p", { class: "fine" }, values.join(", ")) : null,
    h("dl", { class: "facts" }, Object.entries(properties).flatMap(([field, value]) => [
      h("dt", {}, h("code", {}, field)), h("dd", {}, [nameOf(value), value.description].filter(Boolean).join(". ")),
    ])));
}

const commands = byId("commands");
commands.textContent = commands.textContent.replaceAll("http://127.0.0.1:8000", location.origin);
const spec = await (await fetch("/openapi.json")).json();
for (const [path, methods] of Object.entries(spec.paths)) {
  for (const [method, operation] of Object.entries(methods)) byId("routes").append(route(path, method, operation));
}
for (const [name, value] of Object.entries(spec.components?.schemas ?? {})) byId("schemas").append(schema(name, value));
