// What a measurement's fields ask for, all of them together. Pure: tests/js/question_fields.test.mjs.

const LARGEST = 2 ** 60;
const OPTIONAL = new Set(["reasoning_tokens"]); // empty: no limit; 0 is one

// `fields`: name as "plan.look", "limits.max_kl" or "n"; type, value, checked, and the bytes of one of its units.
export function questionsOf(fields) {
  const questions = {plan: {}, limits: {}};
  for (const field of fields) {
    const [group, name] = field.name.split(".");
    if (name) questions[group][name] = valueOf(field, group, name);
    else questions[group] = valueOf(field, group, name);
  }
  return questions;
}

function valueOf({type, value, checked, unit}, group, name) {
  if (type === "checkbox") return checked;
  if (type !== "number") return value;
  if (value === "" && (group === "limits" || OPTIONAL.has(name))) return null; // no limit
  if (OPTIONAL.has(name)) return Number(value);
  if (group !== "limits") return Number(value) || 1;
  return /bytes|memory/.test(name) ? Math.min(Math.round(Number(value) * unit), LARGEST) : Number(value);
}
