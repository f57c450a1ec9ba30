// What a measurement's fields ask for, all of them together. Pure: tests/js/question_fields.test.mjs.

const LARGEST = 2 ** 60;

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
  if (group !== "limits") return Number(value) || 1;
  if (value === "") return null; // no limit
  return /bytes|memory/.test(name) ? Math.min(Math.round(Number(value) * unit), LARGEST) : Number(value);
}
