"""Endpoints of mistral.rs that no other API has, where they mean the same here."""
