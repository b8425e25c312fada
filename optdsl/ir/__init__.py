"""The intermediate representation: a flat, typed SSA program that every stage shares."""
